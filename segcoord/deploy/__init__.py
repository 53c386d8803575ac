"""A trained model out of PyTorch: exports verified in their runtime, and the demo page.

Nothing here trains; what reads an exported model back lives in `inference`.
"""
