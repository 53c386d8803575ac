"""The labels of `data.classes`, with colors for the classes that have none."""

from collections.abc import Iterator, Sequence

from segcoord.config.schema import ClassConfig
from segcoord.data.color_table import Color
from segcoord.data.labels import LabelClass, LabelSet, binary_labels, split_ids
from segcoord.utils.errors import UserError

# 254 colors. The first seven are those of Okabe and Ito, "Color Universal Design" (2008), without
# black. Each of the others has the largest distance in CIELAB to all before it and to black,
# white, gray and VOC's void color, as the smallest of the distances seen with normal vision and
# with three kinds of color blindness (Machado, Oliveira and Fernandes, IEEE TVCG 2009).
_PALETTE = bytes.fromhex(
    "e69f0056b4e9009e73f0e4420072b2d55e00cc79a74800a86030009000ffa8ff90481860184848c060ff90c078"
    "906030484830301800a8a848c0d8ffa800900000606048c0f0a8c0d8ff78a800606060789090f078d848c01800"
    "f018607800909048fff018c06000307860489000d8f0ff00c0784878ffa8c0c0a83000d8ffd8f0f078d8c018d8"
    "30003060600090a8909018300030304890c0d8a8d8300048c04890603078f07830483018d87878480090781860"
    "303048a8c090c0d87800d860c03048907860d81830ff90ffffc0007818a800ff60a8d890180018181818a8a8a8"
    "c09060c0f0d86048900000ff0090ff9090189048a8a8d8d8001878c048d8c090c0c060a8607890301848d8ffd8"
    "0030c00048a8003078604818c0007860ffffa878d80048f090184890f090a800c0f0c0c0c06048481818d8f018"
    "ff9030fff0c07860f0604860780018ffd8601878d8183000c0c0f0f0ffa848f0a8a8f078909090f0a860000030"
    "d89090ff6000c030c0007830000048f090c030a8a8ff78a8ff907800c0ff3078783000007890604878607878f0"
    "78a8d8000090d8c0480060f0f0fff0a8c030f0f0f0483090c018a8d80078600078ff6060001860a84818fff048"
    "3000c0a86000d8d848601860f048c09018a89078a8901818f0307830d8a8000078907830c0d80078a8f0a87890"
    "d8c0ff6000c00000a890f0f0f0a890d890ff60a8000048d8609048d860d860484830486048189078a86018c048"
    "ffa8f0c0c0d8f0c0f078004800183000607890f0c09060604800486000d8304818d84818a8180048ffd8001800"
    "a8484860f01830a848ff6078a8a8c0c018ff6000f060f0d8f0c090009030c09030a8d860f0f090a890ff004878"
    "d8d8a890ff18ff3090c0ff60a83030d8a848600000c0a8f0d848f0d8f0a878c060903090a878c0c0ffc078d8ff"
    "18c0d878c0c030186090c0ffd8c078d890f0f06048c0ffff9078ff3048c030181800c0a8c03090ffff90186030"
    "30609030183090ff78f0a800c018f06060a86000a80030f0f0d89090c048f018ffa8d8c0a89078784860"
)


def palette() -> Iterator[Color]:
    """The colors for classes without one, in their order."""
    for start in range(0, len(_PALETTE), 3):
        r, g, b = _PALETTE[start : start + 3]
        yield r, g, b


def custom_labels(classes: Sequence[ClassConfig], void_ids: Sequence[int]) -> LabelSet:
    """The labels of `data.classes` and `data.void_ids`.

    One class without an id is binary segmentation (see `labels.binary_labels`).

    Raises:
        UserError: a single class with an id; ids or names that aren't unique.
    """
    colors_given = all(c.color is not None for c in classes)
    given = [tuple(c.color) for c in classes if c.color is not None]
    free = (color for color in palette() if color not in given)
    # LabelSet rejects more classes than colors.
    colors = [next(free, (0, 0, 0)) if c.color is None else tuple(c.color) for c in classes]
    if len(classes) == 1:
        only = classes[0]
        if only.id is not None:
            raise UserError(
                f"data.classes: found a single class, {only.name!r} with id {only.id}, without a "
                "background class: a model of one class scores 100 % and learns nothing. Add the "
                "background, for example {name: background, id: 0}, and remove its value from "
                f"data.void_ids; or remove the id: then 0 is background and every other value is "
                f"{only.name!r}"
            )
        return binary_labels(only.name, colors[0], void_ids, colors_given=colors_given)
    pairs = enumerate(zip(classes, colors))
    ids_given = any(c.id is not None for c in classes)
    return LabelSet(
        [
            LabelClass(c.name, color, *split_ids(i if c.id is None else c.id))
            for i, (c, color) in pairs
        ],
        void_ids,
        colors_given=colors_given,
        ids_given=ids_given,
    )
