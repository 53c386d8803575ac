"""The report of `evaluate.py --report`: what is collected, its charts, the page, the figures."""
