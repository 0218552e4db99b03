-- Brings the table of windows of formats 2 to 4 to its name and columns of now: a window is one namespace.
-- Caller: pspf/connectors/sqlite/formats.py.

ALTER TABLE windows RENAME TO entries;
ALTER TABLE entries RENAME COLUMN slot TO namespace;
ALTER TABLE entries RENAME COLUMN state TO value;
