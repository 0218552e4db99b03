-- Mends a cursor that has lost its group. Where the stream is the one that it counted in, and only the group was
-- destroyed, that is made again where the cursor was. Where the stream is gone or another (DEL, FLUSHALL), what was
-- known of it is forgotten: offset and state together, a bounded part of the state a call.
-- Does nothing where another worker has been here first.
--
-- KEYS  1 stream  2 cursor's meta  3 due  4 retry  5 suspects  6 lent  7 spaces, then what is removed with the
--       namespaces in ARGV
-- ARGV  1 the cursor's group on the stream  2.. namespaces
-- Reply 'HERE' the cursor has its group; 'MADE' it was made again; 'STATE' more state is left; 'DONE'
-- Caller: lost_stream.py

local stream, meta, group = KEYS[1], KEYS[2], ARGV[1]
if has_group(stream, group) then return 'HERE' end

local cursor = redis.call('HMGET', meta, 'floor', 'position', 'passed')
local floor, position, passed = cursor[1], cursor[1] or cursor[2], cursor[3]
if floor or passed == '' then passed = nil end

-- Whether the stream is still the one that the cursor counted in. One that was made since has other entries: all of
-- them behind what the cursor had passed, and fewer removed than that were, or (by a clock that went back) before it.
local function is_same()
  if not position or redis.call('EXISTS', stream) == 0 then return false end
  local info = fields_of(redis.call('XINFO', 'STREAM', stream))
  if is_before(after(info['last-generated-id']), position) then return false end
  local first = info['first-entry'] and info['first-entry'][1]
  if first and is_before(first, position) then return true end
  return info['entries-added'] - info['length'] >= tonumber(passed or 1)
end

local wrong = check_keys(1, 1, 'stream', 'XGROUP CREATE') or check_keys(2, 2, 'hash', 'HINCRBY', 'UNLINK')
  or check_keys(3, 6, nil, 'UNLINK') or check_keys(7, 7, 'set', 'SREM') or check_keys(8, #KEYS, nil, 'UNLINK')
if wrong then return wrong end

if is_same() then
  local before = redis.call('XREVRANGE', stream, '(' .. position, '-', 'COUNT', 1)[1]
  local id = before and before[1] or '0-0'
  redis.call('HINCRBY', meta, 'takes', 1) -- nothing that a worker has in hand is pending on it any more
  if passed then
    redis.call('XGROUP', 'CREATE', stream, group, id, 'ENTRIESREAD', passed)
  else
    redis.call('XGROUP', 'CREATE', stream, group, id)
  end
  return 'MADE'
end

for number = 8, #KEYS do redis.call('UNLINK', KEYS[number]) end
for number = 2, #ARGV do redis.call('SREM', KEYS[7], ARGV[number]) end
if redis.call('EXISTS', KEYS[7]) == 1 then return 'STATE' end
redis.call('UNLINK', KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6])
return 'DONE'
