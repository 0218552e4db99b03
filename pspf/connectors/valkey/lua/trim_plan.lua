-- How the cursors of a partition stand. What waits is not looked through.
--
-- KEYS  1 stream, then of each cursor: its meta, its due
-- ARGV  of each cursor: its group on the stream, '1' in shared mode
-- Reply of each cursor {the first id that it has in hand or has not read, its first unread id}; empty where it is gone
-- Caller: trimming.py

local reply = {}
for number = 1, #ARGV / 2 do
  local group, is_shared = ARGV[number * 2 - 1], ARGV[number * 2] == '1'
  local cursor, due = KEYS[number * 2], KEYS[number * 2 + 1]
  local floor, position = stand_of(KEYS[1], group, is_shared, cursor, due)
  if not floor then
    reply[number] = {}
  else
    reply[number] = {floor, position}
  end
end
return reply
