-- How a cursor stands, and what is freed when a record that it waited for is gone. Stands before the
-- scripts of an operator.

-- The first id that a cursor is not done with, its first unread id, and how many of the delivered
-- ones are not done. Nothing where cursor or stream are gone.
local function stand_of(stream, group, is_shared, cursor, due)
  local position = redis.call('HGET', cursor, 'position')
  if not position or redis.call('EXISTS', stream) == 0 then return nil end
  local floor, unfinished = nil, 0
  if is_shared then
    position = nil
    for _, entry in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
      local info = fields_of(entry)
      if info['name'] == group then position = after(info['last-delivered-id']) end
    end
    if not position then return nil end
    local summary = redis.call('XPENDING', stream, group)
    unfinished, floor = summary[1], summary[2]
  end
  floor = floor or position
  if is_before(position, floor) then floor = position end
  local waiting = redis.call('ZRANGE', due, 0, -1)
  for _, id in ipairs(waiting) do
    if is_before(id, floor) then floor = id end
  end
  return floor, position, unfinished + #waiting
end

-- The record key of a packed retry, false where it has none.
local function key_of(packed)
  local _, _, length, at = string.match(packed or '', '^(%d+) (%S+) (%-?%d+) ()')
  length = tonumber(length or -1)
  return length >= 0 and string.sub(packed, at, at + length - 1)
end

-- Makes due what is held back behind nothing any more (ordered): where it is done, those behind it come.
local function free_keys(due, retry, now_ms)
  local rows = redis.call('ZRANGE', due, 0, -1, 'WITHSCORES')
  local ids, scores, seen = {}, {}, {}
  for at = 1, #rows, 2 do
    ids[#ids + 1] = rows[at]
    scores[rows[at]] = rows[at + 1]
  end
  table.sort(ids, is_before)
  for _, id in ipairs(ids) do
    local key = key_of(redis.call('HGET', retry, id))
    if scores[id] == 'inf' and not (key and seen[key]) then redis.call('ZADD', due, text(now_ms), id) end
    if key then seen[key] = true end
  end
end

-- Takes the records of a range out of the hands of whoever has them (shared); returns how many there were.
local function take_away(stream, group, cursor, from, to)
  local count = 0
  while true do
    local rows = redis.call('XPENDING', stream, group, from, to, 1000)
    if #rows == 0 then break end
    local ids = {}
    for number = 1, #rows do ids[number] = rows[number][1] end
    count = count + redis.call('XACK', stream, group, unpack(ids))
  end
  if count > 0 then redis.call('HINCRBY', cursor, 'takes', 1) end
  return count
end
