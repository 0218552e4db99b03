-- All that a batch of an ordered cursor did: all of it or none of it. The checks, in this order: the
-- lease, a commit sent again, the sequence, the stream, the targets, the types, what the user may; behind them
-- nothing fails but an append, and where one does all of them are taken back.
--
-- KEYS  1 stream  2 cursor's meta  3 due  4 retry  5 keys  6 slots  7.. state of the record keys in ARGV,
--       then the keys of the windows (windows.lua) and those of the effects (effects.lua)
-- ARGV  1 now  2 the cursor's group on the stream  3 token  4 epoch  5 sequence  6 commit id
--       7 position, or '' where it stays  8 the id before it  9 how many records passed, '' unknown
--       10 limit  11 left of the suspicion ('' none)  12 number of streams of effects
--       13 number of records done, of those that waited  14 number of retries  15 number of record keys
--       16 number of slots of windows that are written, '' without windows  17 number of dropped ones
--       18 the watermark or ''  19 progress  20 number of arguments of the effects
--       then the ids done; per retry: id, due ('+inf' held back), packed; per record key: the key,
--       number of values, name and value of each, number of names to forget, each; then the windows
--       (windows.lua) and the effects (effects.lua)
-- Reply {'OK', sequence} {'FENCED'} {'STALE', sequence} {'GONE'}
--       {'MOVED', numbers of the streams of effects whose topic has other partitions or is not there}
-- Caller: ordered.py

local stream, meta, due, retry, keys, slots = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local commit_id, position = ARGV[6], ARGV[7]
local streams, done, retries, states = tonumber(ARGV[12]), tonumber(ARGV[13]), tonumber(ARGV[14]), tonumber(ARGV[15])
local windows, dropped = tonumber(ARGV[16]) or 0, tonumber(ARGV[17])
local first_stream = 7 + states + 2 * (windows + dropped)

local cursor = redis.call('HMGET', meta, 'token', 'epoch', 'commit_id', 'seq')
if not cursor[4] then return {'GONE'} end
if cursor[1] ~= ARGV[3] or cursor[2] ~= ARGV[4] then return {'FENCED'} end
local sequence = cursor[4]
if cursor[3] == commit_id then return {'OK', sequence} end
if sequence ~= ARGV[5] then return {'STALE', sequence} end
if not has_group(stream, ARGV[2]) then return {'GONE'} end

local effects = #ARGV - tonumber(ARGV[20]) + 1
local moved = find_moved(first_stream - 1, streams, effects)
if moved then return moved end

local first_window = 7 + states
local wrong = check_keys(1, 1, 'stream', 'XGROUP SETID') or check_keys(2, 2, 'hash', 'HSET')
  or check_keys(3, 3, 'zset', 'ZADD', 'ZREM') or check_keys(4, 4, 'hash', 'HSET', 'HDEL')
  or states > 0 and (check_keys(5, 5, 'set', 'SADD', 'SREM')
    or check_keys(7, first_window - 1, 'hash', 'HSET', 'HDEL'))
  or windows + dropped > 0 and (check_keys(6, 6, 'set', 'SADD', 'SREM')
    or check_keys(first_window, first_window + windows - 1, 'hash', 'HSET', 'HDEL')
    or check_keys(first_window + windows, first_window + 2 * windows - 1, 'zset', 'ZADD', 'ZREM')
    or check_keys(first_window + 2 * windows, first_stream - 1, nil, 'UNLINK'))
  or check_keys(first_stream, first_stream + streams - 1, 'stream', 'XADD', 'XDEL')
if wrong then return wrong end

local now_ms, _, stamp = read_clock(ARGV[1])
sequence = text(sequence + 1)
-- The first write is one that the server refuses when out of memory, with effects and without.
local failed = append_effects(first_stream - 1, streams, effects, stamp, {})
if failed then return failed end
redis.call('HSET', meta, 'seq', sequence, 'commit_id', commit_id, 'limit', ARGV[10], 'left', ARGV[11], 'crashes', '0',
  'intent', '', 'last_commit_ms', text(now_ms))
if position ~= '' then
  redis.call('HSET', meta, 'position', position, 'passed', ARGV[9])
  if ARGV[9] ~= '' then
    redis.call('XGROUP', 'SETID', stream, ARGV[2], ARGV[8], 'ENTRIESREAD', ARGV[9])
  else
    redis.call('XGROUP', 'SETID', stream, ARGV[2], ARGV[8])
  end
end
if ARGV[16] ~= '' then redis.call('HSET', meta, 'watermark_ms', ARGV[18], 'progress', ARGV[19]) end

local at = 21
for number = at, at + done - 1 do
  redis.call('ZREM', due, ARGV[number])
  redis.call('HDEL', retry, ARGV[number])
end
at = at + done
for _ = 1, retries do
  redis.call('ZADD', due, ARGV[at + 1], ARGV[at])
  redis.call('HSET', retry, ARGV[at], ARGV[at + 2])
  at = at + 3
end
for number = 1, states do
  local state, key, values = KEYS[6 + number], ARGV[at], tonumber(ARGV[at + 1])
  at = at + 2
  if values > 0 then
    for from = at, at + 2 * values - 1, 4000 do
      redis.call('HSET', state, unpack(ARGV, from, math.min(from + 3999, at + 2 * values - 1)))
    end
    redis.call('SADD', keys, key)
    at = at + 2 * values
  end
  local forgotten = tonumber(ARGV[at])
  at = at + 1
  if forgotten > 0 then
    for from = at, at + forgotten - 1, 4000 do
      redis.call('HDEL', state, unpack(ARGV, from, math.min(from + 3999, at + forgotten - 1)))
    end
    at = at + forgotten
    if redis.call('EXISTS', state) == 0 then redis.call('SREM', keys, key) end
  end
end
write_windows(slots, 6 + states, windows, dropped, at)
return {'OK', sequence}
