"""`segcoord demo`: a local page that shows a model's masks. Needs the extra `ui`."""
