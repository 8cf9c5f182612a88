"""Documents of plain data, and how they are shown: as text, HTML and figures."""
