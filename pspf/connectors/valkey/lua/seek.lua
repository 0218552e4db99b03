-- Moves a cursor: what it had not finished is forgotten, its lease ends. State that is to be forgotten is marked, and
-- nobody takes the cursor before it is (forget_entries.lua).
--
-- KEYS  1 stream  2 cursor's meta  3 due  4 retry  5 suspects  6 the partition's floors  7 lent
-- ARGV  1 the cursor's group on the stream  2 '1' in shared mode  3 the id wanted next  4 the id before it
--       5 '1' to say only what would be  6 '1' to forget the state
-- Reply {first id in hand or unread before, next id after, number of unfinished records, first id of the stream};
--       {'GONE'}; {'MANY'} in hand: they have to be given back first, in steps
-- Caller: seeking.py

local COUNT_MOST, FEW = 2000, 1000

local stream, cursor, due = KEYS[1], KEYS[2], KEYS[3]
local group, is_shared, wanted = ARGV[1], ARGV[2] == '1', ARGV[3]

local floor, _, unfinished, in_hand = stand_of(stream, group, is_shared, cursor, due)
if not floor then return {'GONE'} end
unfinished = unfinished + redis.call('HLEN', KEYS[7])
local info = fields_of(redis.call('XINFO', 'STREAM', stream))
local length, added, last = info['length'], info['entries-added'], info['last-generated-id']
local first = info['first-entry'] and info['first-entry'][1] or after(last)

-- Where that is, the id before it, and how many records passed (nil: unknown).
local position, before, passed = wanted, ARGV[4], nil
if not is_before(first, wanted) then
  position, before, passed = first, '0-0', added - length
elseif not is_before(wanted, after(last)) then
  position, before, passed = after(last), last, added
end
if ARGV[5] == '1' then return {floor, position, unfinished, first} end
if in_hand > FEW then return {'MANY'} end
if not passed then
  local unread, rest = count_from(stream, position, COUNT_MOST)
  if not rest then passed = added - unread end
end

local wrong = check_keys(1, 1, 'stream', 'XACK', 'XGROUP SETID') or check_keys(2, 2, 'hash', 'HSET', 'HDEL', 'HINCRBY')
  or check_keys(3, 5, nil, 'UNLINK') or check_keys(7, 7, nil, 'UNLINK') or check_keys(6, 6, 'zset', 'ZREM', 'ZRANGE')
if wrong then return wrong end

-- The first write, one that the server refuses when out of memory.
redis.call('HSET', cursor, 'position', position, 'passed', passed and text(passed) or '', 'token', '', 'session', '',
  'clean', '1', 'intent', '', 'limit', '', 'left', '', 'crashes', '0')
redis.call('HINCRBY', cursor, 'seq', 1)
redis.call('HDEL', cursor, 'floor')
if is_shared then take_away(stream, group, cursor, '-', '+') end
redis.call('UNLINK', due, KEYS[4], KEYS[5], KEYS[7])
if passed then
  redis.call('XGROUP', 'SETID', stream, group, before, 'ENTRIESREAD', text(passed))
else
  redis.call('XGROUP', 'SETID', stream, group, before)
end
-- What it passes again, it has passed now and not before: retention counts again.
for _, id in ipairs(redis.call('ZRANGE', KEYS[6], 0, -1)) do
  if is_before(position, id) then redis.call('ZREM', KEYS[6], id) end
end
if ARGV[6] == '1' then
  redis.call('HDEL', cursor, 'watermark_ms', 'progress')
  redis.call('HSET', cursor, 'forget', '1')
end
return {floor, position, unfinished, first}
