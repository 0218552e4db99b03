-- All that a batch of an ordered cursor did: all of it or none of it. The checks, in this order: the
-- lease, a commit sent again, the sequence, the stream, the types; behind them nothing fails.
--
-- KEYS  1 stream  2 cursor's meta  3 due  4 retry  5 keys  6 slots  7.. state of the record keys in ARGV,
--       then the keys of the windows (windows.lua) and the streams of the effects
-- ARGV  1 now  2 the cursor's group on the stream  3 token  4 epoch  5 sequence  6 commit id
--       7 position, or '' where it stays  8 the id before it  9 how many records passed, '' unknown
--       10 limit  11 left of the suspicion ('' none)  12 number of streams of effects
--       13 number of records done, of those that waited  14 number of retries  15 number of record keys
--       16 number of slots of windows that are written, '' without windows  17 number of dropped ones
--       18 the watermark or ''  19 progress
--       then the ids done; per retry: id, due ('+inf' held back), packed; per record key: the key,
--       number of values, name and value of each, number of names to forget, each; then the windows
--       (windows.lua) and the effects (effects.lua)
-- Reply {'OK', sequence} {'FENCED'} {'STALE', sequence} {'GONE'}
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
if redis.pcall('XPENDING', stream, ARGV[2])['err'] then return {'GONE'} end

local wrong = check_kinds(3, 3, 'zset') or check_kinds(4, 4, 'hash') or check_kinds(5, 5, 'set')
  or check_kinds(6, 6, 'set') or check_kinds(7, 6 + states + windows, 'hash')
  or check_kinds(7 + states + windows, 6 + states + 2 * windows, 'zset')
  or check_kinds(first_stream, first_stream + streams - 1, 'stream')
if wrong then return wrong end

local now_ms, _, stamp = read_clock(ARGV[1])
sequence = text(sequence + 1)
-- The first write, one that the server refuses when out of memory.
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

local at = 20
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
at = write_windows(slots, 6 + states, windows, dropped, at)
append_effects(first_stream - 1, streams, at, stamp, {})
return {'OK', sequence}
