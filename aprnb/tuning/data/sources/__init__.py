"""Where rows come from: files, tables, text and objects, as numbered values (no torch)."""
