-- Moves `ctx.state` of formats 1 to 4 among the entries, in their order. `state_key` is pspf/records.py's,
-- `state_namespace` gives its STATE. Caller: pspf/connectors/sqlite/formats.py.

INSERT INTO entries (cursor_id, namespace, key, value)
SELECT cursor_id, state_namespace(), state_key(key, name), value FROM state ORDER BY cursor_id, key, name;

DROP TABLE state;
