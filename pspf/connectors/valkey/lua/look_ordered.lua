-- What an owner has to know before it reads on: that the lease is still its own, and which of the
-- records that wait are due.
--
-- KEYS  1 stream  2 cursor's meta  3 due  4 retry
-- ARGV  1 now  2 the cursor's group on the stream  3 token  4 number of records at most
-- Reply {ms until the next one is due (-1: none), sequence, id, attempts of each that is due, in order}
--       or {'FENCED'}, {'GONE'}
-- Caller: ordered.py

local LOOKED_AT = 3000 -- of those due at one time, the first by text may be none of the first by number

local cursor = redis.call('HMGET', KEYS[2], 'token', 'seq')
local token = cursor[1]
if not token or not has_group(KEYS[1], ARGV[2]) then return {'GONE'} end
if token ~= ARGV[3] then return {'FENCED'} end
local now_ms = read_clock(ARGV[1])
local ids = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', text(now_ms), 'LIMIT', 0, LOOKED_AT)
sort_ids(ids)
local later = redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. text(now_ms), '(+inf', 'WITHSCORES', 'LIMIT', 0, 1)
local most = tonumber(ARGV[4])
local wait_ms = later[2] and math.ceil(later[2] - now_ms) or -1
local reply = {#ids > most and 0 or wait_ms, cursor[2]}
for number = 1, math.min(#ids, most) do
  reply[#reply + 1] = ids[number]
  reply[#reply + 1] = string.match(redis.call('HGET', KEYS[4], ids[number]) or '0', '^%d+')
end
return reply
