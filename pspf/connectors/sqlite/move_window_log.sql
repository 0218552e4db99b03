-- Moves the log of windows of formats 3 and 4 into the log of entries. There, number counts the commits of all cursors;
-- here, those of each: fewer than its sequence. Caller: pspf/connectors/sqlite/formats.py.

INSERT INTO entry_log (cursor_id, number, changes)
SELECT cursor_id, row_number() OVER (PARTITION BY cursor_id ORDER BY number), changes FROM window_log
ORDER BY cursor_id, number;

DROP TABLE window_log;
