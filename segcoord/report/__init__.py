"""The report on a model's predictions: what is gathered, its charts, the page, the figures."""
