-- How the cursors of a partition stand to a place before which it is to be trimmed.
--
-- KEYS  1 stream, then of each cursor: its meta, its due
-- ARGV  1 the id, then of each cursor: its group on the stream, '1' in shared mode
-- Reply of each cursor {the first id that it is not done with, its first unread id, number of delivered
--       records before the place that are not done}; empty where it is gone
-- Caller: trimming.py

local reply = {}
for number = 1, (#ARGV - 1) / 2 do
  local group, is_shared = ARGV[number * 2], ARGV[number * 2 + 1] == '1'
  local cursor, due = KEYS[number * 2], KEYS[number * 2 + 1]
  local floor, position = stand_of(KEYS[1], group, is_shared, cursor, due)
  if not floor then
    reply[number] = {}
  else
    local count = 0
    for _, id in ipairs(redis.call('ZRANGE', due, 0, -1)) do
      if is_before(id, ARGV[1]) then count = count + 1 end
    end
    local from = '-'
    while is_shared do
      local rows = redis.call('XPENDING', KEYS[1], group, from, '(' .. ARGV[1], 1000)
      count = count + #rows
      if #rows < 1000 then break end
      from = '(' .. rows[#rows][1]
    end
    reply[number] = {floor, position, count}
  end
end
return reply
