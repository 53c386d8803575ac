"""`segcoord demo`: a local web page that shows a model's masks. Needs the extra `ui`."""
