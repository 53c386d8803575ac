"""Export of trained models, verified in their own runtime, and the demo page.

No training happens here; `inference` reads exported models.
"""
