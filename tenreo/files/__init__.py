"""Files: what lies in them, how they are read and written. The header's part needs no torch."""
