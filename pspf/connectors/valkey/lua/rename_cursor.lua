-- Gives an ordered cursor the name of another handler, with all that is its own; its lease ends.
--
-- KEYS  1 stream  2 the partition's meta  3 cursors, then the cursor's keys, its meta first, then as many that
--       they are called from now on
-- ARGV  1 the cursor's field in `cursors`  2 the new one  3 its group on the stream  4 the new one
--       5 the sequence at which KEYS named all of it
-- Reply OK; GONE where cursor or stream are missing; TAKEN where there is a cursor of the new name; MOVED where
--       the cursor may have other state by now
-- Caller: renaming.py

local stream, cursors, meta = KEYS[1], KEYS[3], KEYS[4]
local count = (#KEYS - 3) / 2

if redis.call('HEXISTS', cursors, ARGV[1]) == 0 or redis.call('EXISTS', stream, meta) < 2 then return 'GONE' end
if redis.call('HEXISTS', cursors, ARGV[2]) == 1 then return 'TAKEN' end
if redis.call('HGET', meta, 'seq') ~= ARGV[5] then return 'MOVED' end
local last, passed
for _, entry in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local group = fields_of(entry)
  if group['name'] == ARGV[4] then return 'TAKEN' end
  if group['name'] == ARGV[3] then last, passed = group['last-delivered-id'], group['entries-read'] end
end
if not last then return 'GONE' end

local wrong = check_keys(1, 1, 'stream', 'XGROUP CREATE', 'XGROUP DESTROY') or check_keys(2, 2, 'hash', 'HINCRBY')
  or check_keys(3, 3, 'hash', 'HSET', 'HDEL') or check_keys(4, 4, 'hash', 'HSET', 'HINCRBY')
  or check_keys(4, #KEYS, nil, 'EXISTS', 'RENAME')
if wrong then return wrong end

-- The first write, one that the server refuses when out of memory.
if passed then
  redis.call('XGROUP', 'CREATE', stream, ARGV[4], last, 'ENTRIESREAD', text(passed))
else
  redis.call('XGROUP', 'CREATE', stream, ARGV[4], last)
end
redis.call('HSET', meta, 'token', '', 'session', '')
redis.call('HINCRBY', meta, 'seq', 1)
for number = 4, 3 + count do
  if redis.call('EXISTS', KEYS[number]) == 1 then redis.call('RENAME', KEYS[number], KEYS[number + count]) end
end
redis.call('HSET', cursors, ARGV[2], '')
redis.call('HDEL', cursors, ARGV[1])
redis.call('HINCRBY', KEYS[2], 'cursors', 1)
redis.call('XGROUP', 'DESTROY', stream, ARGV[3])
return 'OK'
