-- How far a cursor is.
--
-- KEYS  1 stream  2 the cursor's meta  3 its due  4 lent
-- ARGV  1 now  2 the group in shared mode, else empty
-- Reply {number unread (-1: count it from the next id), next id, id of the last record of the done ones or
--       empty, last id ever given, in hand, age of the oldest of these in ms (-1: none), given back, waiting for
--       a retry, held back, owner, last_commit_ms, watermark_ms or empty,
--       empty, or where more wait than are looked through here: the lowest id in hand or unread}; empty where the cursor is gone.
-- Caller: inspect.py

local AGES = 100
local LOOKED_THROUGH = 1000

local stream, cursor, due = KEYS[1], KEYS[2], KEYS[3]
local meta = redis.call('HMGET', cursor, 'position', 'passed', 'session', 'last_commit_ms', 'watermark_ms')
local position, passed = meta[1], tonumber(meta[2] or '')
if not position then return {} end

local length, added, first, newest, last, deleted = 0, 0, false, false, '0-0', '0-0'
if redis.call('EXISTS', stream) == 1 then
  local info = fields_of(redis.call('XINFO', 'STREAM', stream))
  length, added, last, deleted = info['length'], info['entries-added'], info['last-generated-id'],
    info['max-deleted-entry-id']
  first = info['first-entry'] and info['first-entry'][1]
  newest = info['last-entry'] and info['last-entry'][1]
end

local floor
local pending, age = 0, -1
if ARGV[2] ~= '' then
  passed = nil
  for _, entry in ipairs(redis.call('EXISTS', stream) == 1 and redis.call('XINFO', 'GROUPS', stream) or {}) do
    local group = fields_of(entry)
    if group['name'] == ARGV[2] then
      position = after(group['last-delivered-id'])
      if group['lag'] then passed = added - group['lag'] end
      local summary = redis.call('XPENDING', stream, ARGV[2])
      pending, floor = summary[1], summary[2]
      if pending > 0 then
        for _, row in ipairs(redis.call('XPENDING', stream, ARGV[2], '-', '+', AGES)) do
          age = math.max(age, row[3])
        end
        local now_ms, shift = read_clock(ARGV[1])
        if shift > 0 then age = math.max(0, age - (read_clock('') - now_ms)) end
      end
    end
  end
end
floor = floor or position
if is_before(position, floor) then floor = position end
local is_long = redis.call('ZCARD', due) > LOOKED_THROUGH
for _, id in ipairs(is_long and {} or redis.call('ZRANGE', due, 0, -1)) do
  if first and not is_before(id, first) and is_before(id, floor) then floor = id end -- others are replayed
end

local unread
if length == 0 or is_before(newest, position) then
  unread = 0
elseif not is_before(first, position) then
  unread = length
elseif passed and is_before(deleted, ARGV[2] == '' and '0-1' or position) then
  unread = math.max(0, added - passed)
else
  unread = -1 -- records were removed from the middle, or nobody counted
end

local done = ''
if is_before(last, floor) then
  done = last ~= '0-0' and last or ''
elseif first then
  local entry = redis.call('XREVRANGE', stream, '(' .. floor, '-', 'COUNT', 1)[1]
  done = entry and entry[1] or ''
end
pending = pending + redis.call('HLEN', KEYS[4])
return {unread, position, done, last, pending, age, redis.call('ZCOUNT', due, '-inf', '(0'),
  redis.call('ZCOUNT', due, 0, '(+inf'), redis.call('ZCOUNT', due, '+inf', '+inf'), meta[3] or '', meta[4] or '',
  meta[5] or '', is_long and floor or ''}
