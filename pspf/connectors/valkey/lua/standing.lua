-- The position of a cursor. Part of the scripts of the administrator's operations.

-- The first id that a cursor has in hand or has not read, its first unread id, how many of the delivered ones are
-- not done, and how many of these are in hand. Nothing where cursor or stream are gone.
-- What waits may be before the first: it is in no order of ids, and not looked through here.
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
  return floor, position, unfinished + redis.call('ZCARD', due), unfinished
end

-- Takes the records of a range from the workers that have them (shared); returns how many there were.
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
