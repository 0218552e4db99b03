-- Trims a partition up to a place, a bounded step, over what its cursors have not finished only where
-- that is meant: such a cursor is moved, and what it loses is counted.
--
-- KEYS  1 stream  2 the partition's meta  3 cursors, then of each cursor: its meta, due, retry, suspects
-- ARGV  1 now  2 the id to trim up to  3 '1' to trim what is not finished, too
--       4 version of the cursors that KEYS name, then of each: its group on the stream, '1' in shared mode
-- Reply {number of records trimmed, first id that stays or empty, number lost of each cursor}
--       {} where the cursors are others by now
-- Caller: trimming.py

local STEP = 2000

local stream, meta, wanted, is_forced = KEYS[1], KEYS[2], ARGV[2], ARGV[3] == '1'
if (redis.call('HGET', meta, 'cursors') or '0') ~= ARGV[4] then return {} end
local now_ms = read_clock(ARGV[1])

local entries = redis.call('XRANGE', stream, '-', '(' .. wanted, 'COUNT', STEP)
if #entries == 0 then return {0, '', {}} end
local cut = wanted
if #entries == STEP then cut = after(entries[STEP][1]) end

local stands = {}
for number = 1, (#ARGV - 4) / 2 do
  local group, is_shared = ARGV[number * 2 + 3], ARGV[number * 2 + 4] == '1'
  local floor, position = stand_of(stream, group, is_shared, KEYS[number * 4], KEYS[number * 4 + 1])
  stands[number] = {floor, position}
  if floor and not is_forced and is_before(floor, cut) then cut = floor end
end
while #entries > 0 and not is_before(entries[#entries][1], cut) do entries[#entries] = nil end
if #entries == 0 then return {0, '', {}} end
local last = entries[#entries][1]

local wrong = check_keys(1, 1, 'stream', 'XTRIM', 'XACK', 'XGROUP SETID') or check_keys(2, 2, 'hash', 'HINCRBY')
for number = 1, #stands do
  wrong = wrong or check_keys(number * 4, number * 4, 'hash', 'HSET', 'HINCRBY')
    or check_keys(number * 4 + 1, number * 4 + 1, 'zset', 'ZREM', 'ZADD')
    or check_keys(number * 4 + 2, number * 4 + 3, 'hash', 'HDEL')
end
if wrong then return wrong end

local lost, total = {}, 0
for number, stand in ipairs(stands) do
  lost[number] = 0
  if stand[1] and is_before(stand[1], cut) then
    local group, is_shared = ARGV[number * 2 + 3], ARGV[number * 2 + 4] == '1'
    local cursor, due, retry, suspects = unpack(KEYS, number * 4, number * 4 + 3)
    local position = stand[2]
    local unread = 0
    for at = #entries, 1, -1 do
      if is_before(entries[at][1], position) then break end
      unread = unread + 1
    end
    local count = unread
    for _, id in ipairs(redis.call('ZRANGE', due, 0, -1)) do
      if is_before(id, cut) then
        count = count + redis.call('ZREM', due, id)
        redis.call('HDEL', retry, id)
        redis.call('HDEL', suspects, id)
      end
    end
    if is_shared then
      count = count + take_away(stream, group, cursor, '-', '(' .. cut)
    else
      free_keys(due, retry, now_ms)
    end
    if is_before(position, cut) then
      local info = fields_of(redis.call('XINFO', 'STREAM', stream))
      local passed = text(info['entries-added'] - info['length'] + #entries)
      redis.call('HSET', cursor, 'position', cut, 'passed', passed)
      redis.call('XGROUP', 'SETID', stream, group, last, 'ENTRIESREAD', passed)
    end
    redis.call('HINCRBY', cursor, 'seq', 1)
    lost[number] = count
    total = total + count
  end
end
if total > 0 then redis.call('HINCRBY', meta, 'lost', total) end
local trimmed = redis.call('XTRIM', stream, 'MINID', '=', cut)
local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
return {trimmed, first and first[1] or cut, lost}
