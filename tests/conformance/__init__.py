"""The contract of `pspf.connectors.base`, executable: every broker passes every test here."""
