"""Brokers, behind one contract: `pspf.connectors.contract`."""
