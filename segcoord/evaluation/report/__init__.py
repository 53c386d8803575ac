"""The report of `segcoord evaluate --report`: collected counts, charts, HTML page and figures."""
