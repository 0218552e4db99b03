-- All that a batch of an ordered cursor did: all of it or none of it. The checks, in this order: the
-- lease, a commit sent again, the sequence, the stream, the targets, the types, what the user may; behind them
-- nothing fails but an append, and where one does all of them are taken back.
--
-- KEYS  1 stream  2 cursor's meta  3 due  4 retry  5 spaces  6.. the keys of entries (entries.lua), then those of the
--       effects (effects.lua); the partition's meta
-- ARGV  1 now  2 the cursor's group on the stream  3 token  4 epoch  5 sequence  6 commit id
--       7 position, or '' where it stays  8 the id before it  9 how many records passed, '' unknown
--       10 limit  11 left of the suspicion ('' none)  12 number of streams of effects
--       13 number of records done, of those that waited  14 number of retries
--       15 number of namespaces that are written  16 number of dropped ones
--       17 '1' where the operator's progress is written  18 its watermark or ''  19 progress
--       20 number of arguments of the effects
--       21 '1' to look whether records were removed from outside before they were read
--       then the ids done; per retry: id, due ('+inf' held back), packed; then the entries (entries.lua) and the
--       effects (effects.lua)
-- Reply {'OK', sequence, how many records passed, '' unknown, how many of them were removed unread} {'FENCED'} {'STALE', sequence} {'GONE'}
--       {'MOVED', numbers of the streams of effects whose topic has other partitions or is not there}
-- Caller: ordered.py

local stream, meta, due, retry, spaces = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local commit_id, position = ARGV[6], ARGV[7]
local streams, done, retries = tonumber(ARGV[12]), tonumber(ARGV[13]), tonumber(ARGV[14])
local written, dropped = tonumber(ARGV[15]), tonumber(ARGV[16])
local first_stream = 6 + 2 * (written + dropped)

local cursor = redis.call('HMGET', meta, 'token', 'epoch', 'commit_id', 'seq', 'position', 'passed')
if not cursor[4] then return {'GONE'} end
if cursor[1] ~= ARGV[3] or cursor[2] ~= ARGV[4] then return {'FENCED'} end
local sequence = cursor[4]
if cursor[3] == commit_id then return {'OK', sequence, cursor[6] or '', 0} end
if sequence ~= ARGV[5] then return {'STALE', sequence} end
if not has_group(stream, ARGV[2]) then return {'GONE'} end

local effects = #ARGV - tonumber(ARGV[20]) + 1
local moved = find_moved(first_stream - 1, streams, effects)
if moved then return moved end

local wrong = check_keys(1, 1, 'stream', 'XGROUP SETID') or check_keys(2, 2, 'hash', 'HSET')
  or check_keys(3, 3, 'zset', 'ZADD', 'ZREM') or check_keys(4, 4, 'hash', 'HSET', 'HDEL')
  or written + dropped > 0 and (check_keys(5, 5, 'set', 'SADD', 'SREM')
    or check_keys(6, 5 + written, 'hash', 'HSET', 'HDEL')
    or check_keys(6 + written, 5 + 2 * written, 'zset', 'ZADD', 'ZREM')
    or check_keys(6 + 2 * written, first_stream - 1, nil, 'UNLINK'))
  or check_keys(first_stream, first_stream + streams - 1, 'stream', 'XADD', 'XDEL')
  or check_keys(#KEYS, #KEYS, 'hash', 'HINCRBY')
if wrong then return wrong end

-- How many records passed by now, where that can be known and some may have been removed from outside: behind the last
-- one it is all that were ever added; else what was removed, and what is left before the position.
local function count_passed()
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  local is_behind = first and is_before(cursor[5], first[1])
  if not is_behind and ARGV[21] ~= '1' then return nil end
  local info = fields_of(redis.call('XINFO', 'STREAM', stream))
  if not is_before(info['max-deleted-entry-id'], position) then return nil end
  if is_before(info['last-generated-id'], position) then return info['entries-added'] end
  local removed = info['entries-added'] - info['length']
  if not is_behind or not is_before(first[1], position) or removed <= tonumber(cursor[6]) then return nil end
  return removed + #redis.call('XRANGE', stream, '-', '(' .. position)
end
local passed, lost = ARGV[9], 0
if position ~= '' and passed ~= '' and cursor[6] and cursor[6] ~= '' then
  local found = count_passed()
  if found then
    lost = math.max(0, found - passed)
    passed = text(found)
  end
end

local now_ms, _, stamp = read_clock(ARGV[1])
sequence = text(sequence + 1)
-- The first write is one that the server refuses when out of memory, with effects and without.
local failed = append_effects(first_stream - 1, streams, effects, stamp, {})
if failed then return failed end
redis.call('HSET', meta, 'seq', sequence, 'commit_id', commit_id, 'limit', ARGV[10], 'left', ARGV[11], 'crashes', '0',
  'intent', '', 'last_commit_ms', text(now_ms))
if position ~= '' then
  redis.call('HSET', meta, 'position', position, 'passed', passed)
  if passed ~= '' then
    redis.call('XGROUP', 'SETID', stream, ARGV[2], ARGV[8], 'ENTRIESREAD', passed)
  else
    redis.call('XGROUP', 'SETID', stream, ARGV[2], ARGV[8])
  end
end
if ARGV[17] == '1' then redis.call('HSET', meta, 'watermark_ms', ARGV[18], 'progress', ARGV[19]) end

if lost > 0 then redis.call('HINCRBY', KEYS[#KEYS], 'lost', lost) end

local at = 22
for number = at, at + done - 1 do
  redis.call('ZREM', due, ARGV[number])
  redis.call('HDEL', retry, ARGV[number], '+' .. ARGV[number])
end
at = at + done
for _ = 1, retries do
  redis.call('ZADD', due, ARGV[at + 1], ARGV[at])
  redis.call('HSET', retry, ARGV[at], ARGV[at + 2])
  at = at + 3
end
write_entries(spaces, 5, written, dropped, at)
return {'OK', sequence, passed, lost}
