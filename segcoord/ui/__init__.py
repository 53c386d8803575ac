"""The demo's page: pictures in, masks and where the model looks out. Needs the extra `ui`."""
