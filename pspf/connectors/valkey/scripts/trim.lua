-- Trims what no group needs and retention no longer keeps: a bounded step.
--
-- KEYS  1 stream  2 meta  3 cursors  4 floors, then of each cursor: its meta, its due
-- ARGV  1 now  2 retention where the topic has none of its own (ms, 0 consumed, -1 forever)
--       3 version of the cursors that KEYS name, then of each: its group in shared mode, else empty
-- Reply {number of records trimmed, number of waiting records looked through}, or, where the cursors
--       are others by now, {version, fields of `cursors`}: call again with these.
-- Caller: retention.py

local STEP = 10000
local SAMPLES = 100

local stream, meta, floors = KEYS[1], KEYS[2], KEYS[4]
local version = redis.call('HGET', meta, 'cursors') or '0'
if version ~= ARGV[3] then
  return {version, redis.call('HKEYS', KEYS[3])}
end
local retention = redis.call('HGET', meta, 'retention')
if not retention or retention == '-' then retention = ARGV[2] end
retention = tonumber(retention)
if retention < 0 or redis.call('XLEN', stream) == 0 then return {0, 0} end

local now_ms = read_clock(ARGV[1])
local delivered = {}
for _, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local group = fields_of(info)
  delivered[group['name']] = group['last-delivered-id']
end

local floor, scanned = nil, 0
local function lower(id)
  if not floor or is_before(id, floor) then floor = id end
end
for number = 4, #ARGV do
  local group = ARGV[number]
  local cursor, due = KEYS[number * 2 - 3], KEYS[number * 2 - 2]
  if group == '' then
    local position = redis.call('HGET', cursor, 'position')
    if not position then return {0, scanned} end
    lower(position)
  else
    if not delivered[group] then return {0, scanned} end
    local pending = redis.call('XPENDING', stream, group)
    local own = after(delivered[group])
    if pending[1] > 0 and is_before(pending[2], own) then own = pending[2] end
    lower(own)
    -- Where the group comes back to when it is destroyed from outside (reset.lua). When out of memory it is left out.
    if redis.call('HGET', cursor, 'floor') ~= own then redis.pcall('HSET', cursor, 'floor', own) end
  end
  local waiting = redis.call('ZRANGE', due, 0, -1)
  scanned = scanned + #waiting
  for _, id in ipairs(waiting) do lower(id) end
end

if not floor then
  if retention == 0 then return {0, scanned} end -- nobody has consumed anything
  floor = after(fields_of(redis.call('XINFO', 'STREAM', stream))['last-generated-id'])
end
local cut = floor
if retention > 0 then
  local newest = redis.call('ZREVRANGE', floors, 0, 0, 'WITHSCORES')
  local step = math.max(1, math.floor(retention / SAMPLES))
  if not newest[1] or (is_before(newest[1], floor) and newest[2] + step <= now_ms) then
    -- A server that is out of memory refuses this, and takes what makes room.
    redis.pcall('ZADD', floors, text(now_ms), floor)
  end
  local old = redis.call('ZREVRANGEBYSCORE', floors, text(now_ms - retention), '-inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if not old[1] then return {0, scanned} end
  redis.call('ZREMRANGEBYSCORE', floors, '-inf', '(' .. old[2])
  if is_before(old[1], cut) then cut = old[1] end
end
-- Whole nodes first, which costs little; then what is left in the node that the cut goes through.
local trimmed = redis.call('XTRIM', stream, 'MINID', '~', cut, 'LIMIT', STEP)
if trimmed < STEP / 2 then
  trimmed = trimmed + redis.call('XTRIM', stream, 'MINID', '=', cut)
end
return {trimmed, scanned}
