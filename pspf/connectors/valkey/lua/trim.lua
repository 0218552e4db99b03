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
local LOOKED_THROUGH = 1000
local WALKED, PAGE, MANY_BYTES = 500, 8, 1000000

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

local floor, scanned, large = nil, 0, {}
local function lower(id)
  if not floor or is_before(id, floor) then floor = id end
end
local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
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
  local count = redis.call('ZCARD', due)
  if scanned + count <= LOOKED_THROUGH then
    scanned = scanned + count
    for _, id in ipairs(redis.call('ZRANGE', due, 0, -1)) do
      if not is_before(id, first[1]) then lower(id) end -- else it is replayed, and none of the stream's
    end
  else
    large[#large + 1] = due
  end
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
-- Where more wait than can be looked through at once, each entry is asked for before it goes.
if #large > 0 then
  local from, bytes, walked, entries, is_kept = '-', 0, 0, nil, false
  repeat
    entries = redis.call('XRANGE', stream, from, '(' .. cut, 'COUNT', PAGE)
    for _, entry in ipairs(entries) do
      for _, due in ipairs(large) do
        if redis.call('ZSCORE', due, entry[1]) then is_kept = true end
      end
      if is_kept then
        cut = entry[1]
        break
      end
      walked, bytes, from = walked + 1, bytes + #entry[2][2], '(' .. entry[1]
    end
  until is_kept or #entries < PAGE or walked >= WALKED or bytes >= MANY_BYTES
  if not is_kept and #entries == PAGE then cut = after(string.sub(from, 2)) end
end

-- Large entries take their time to go.
if #first[2][2] > 50000 then STEP = 20 end
-- Whole nodes first, which costs little; then what is left in the node that the cut goes through.
local trimmed = redis.call('XTRIM', stream, 'MINID', '~', cut, 'LIMIT', STEP)
if trimmed < STEP / 2 then
  trimmed = trimmed + redis.call('XTRIM', stream, 'MINID', '=', cut)
end
return {trimmed, scanned}
