"""Brokers, behind one contract: `pspf.connectors.base`."""
