"""The notebook's first cell. Before it nothing but Python and pip is there: only these are used."""
