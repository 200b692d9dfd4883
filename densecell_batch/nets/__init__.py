"""The nets as functions of arrays; no file is known here."""
