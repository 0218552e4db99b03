-- Trims a partition up to a place, a bounded step, over what its cursors have not finished only where
-- that is meant: such a cursor is moved, and what it loses is counted. What an ordered one held back behind that, its
-- owner sets right, which has to take it again.
--
-- KEYS  1 stream  2 the partition's meta  3 cursors, then of each cursor: its meta, due, retry, suspects
-- ARGV  1 empty  2 the id to trim up to  3 '1' to trim what is not finished, too
--       4 version of the cursors that KEYS name, then of each: its group on the stream, '1' in shared mode
-- Reply {number of records trimmed, first id that stays or empty, number lost of each cursor}
--       {} where the cursors are others by now
-- Caller: trimming.py

local STEP, MANY_BYTES = 500, 1000000

local stream, meta, wanted, is_forced = KEYS[1], KEYS[2], ARGV[2], ARGV[3] == '1'
if (redis.call('HGET', meta, 'cursors') or '0') ~= ARGV[4] then return {} end

-- The ids from the first on, as many as are not too large together.
local ids, from, bytes, page, is_over = {}, '-', 0, 8, false
repeat
  local entries = redis.call('XRANGE', stream, from, '(' .. wanted, 'COUNT', page)
  local of_page = 0
  for _, entry in ipairs(entries) do
    ids[#ids + 1] = entry[1]
    of_page = of_page + #entry[2][2]
  end
  is_over = #entries < page
  bytes = bytes + of_page
  if #ids > 0 then from = '(' .. ids[#ids] end
  if of_page < 100000 then page = math.min(2 * page, 250) end
until is_over or #ids >= STEP or bytes >= MANY_BYTES
if #ids == 0 then return {0, '', {}} end
local cut = is_over and wanted or after(ids[#ids])

local stands = {}
for number = 1, (#ARGV - 4) / 2 do
  local group, is_shared = ARGV[number * 2 + 3], ARGV[number * 2 + 4] == '1'
  local floor, position = stand_of(stream, group, is_shared, KEYS[number * 4], KEYS[number * 4 + 1])
  stands[number] = {floor, position}
  if floor and not is_forced and is_before(floor, cut) then cut = floor end
end
-- What waits is in no order of ids: each of these is asked for.
local function is_kept(id)
  if not is_before(id, cut) then return true end
  if is_forced then return false end
  for number, stand in ipairs(stands) do
    if stand[1] and redis.call('ZSCORE', KEYS[number * 4 + 1], id) then return true end
  end
  return false
end
local gone = 0
while gone < #ids and not is_kept(ids[gone + 1]) do gone = gone + 1 end
if gone == 0 then return {0, '', {}} end
if gone < #ids then
  cut = ids[gone + 1]
  while #ids > gone do ids[#ids] = nil end
end
local last = ids[gone]

local wrong = check_keys(1, 1, 'stream', 'XTRIM', 'XACK', 'XGROUP SETID') or check_keys(2, 2, 'hash', 'HINCRBY')
for number = 1, #stands do
  wrong = wrong or check_keys(number * 4, number * 4, 'hash', 'HSET', 'HINCRBY')
    or check_keys(number * 4 + 1, number * 4 + 1, 'zset', 'ZREM', 'ZSCORE')
    or check_keys(number * 4 + 2, number * 4 + 3, 'hash', 'HDEL')
end
if wrong then return wrong end

local lost, total = {}, 0
for number, stand in ipairs(stands) do
  lost[number] = 0
  if stand[1] and is_forced then
    local group, is_shared = ARGV[number * 2 + 3], ARGV[number * 2 + 4] == '1'
    local cursor, due, retry, suspects = unpack(KEYS, number * 4, number * 4 + 3)
    local position = stand[2]
    local count = 0
    for at = #ids, 1, -1 do
      if is_before(ids[at], position) then break end
      count = count + 1
    end
    for _, id in ipairs(redis.call('EXISTS', due) == 1 and ids or {}) do
      if redis.call('ZREM', due, id) == 1 then
        count = count + 1
        redis.call('HDEL', retry, id)
        redis.call('HDEL', suspects, id)
      end
    end
    if is_shared then count = count + take_away(stream, group, cursor, '-', '(' .. cut) end
    if is_before(position, cut) then
      local info = fields_of(redis.call('XINFO', 'STREAM', stream))
      local passed = text(info['entries-added'] - info['length'] + #ids)
      redis.call('HSET', cursor, 'position', cut, 'passed', passed)
      redis.call('XGROUP', 'SETID', stream, group, last, 'ENTRIESREAD', passed)
    end
    if count > 0 or is_before(position, cut) then redis.call('HINCRBY', cursor, 'seq', 1) end
    lost[number] = count
    total = total + count
  end
end
if total > 0 then redis.call('HINCRBY', meta, 'lost', total) end
local trimmed = redis.call('XTRIM', stream, 'MINID', '=', cut)
local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
return {trimmed, first and first[1] or cut, lost}
