-- Joins a group on one partition: makes its cursor and its consumer group where they are missing.
--
-- KEYS  1 stream  2 meta  3 cursors  4 floors  5 the cursor's meta
-- ARGV  1 number of partitions that the caller knows  2 the cursor's field in `cursors`
--       3 the consumer group  4 start: `start`, `end`, or a record's id  5 the id before that
-- Reply 1; 0 where the topic is not there or has other partitions; -1 where an ordered cursor has lost its stream
--       (reset.lua comes first: a group made now would hide that)
-- Caller: session.py

local COUNT_STEP, COUNT_MOST = 1000, 20000

local stream, meta, cursor = KEYS[1], KEYS[2], KEYS[5]
if redis.call('HGET', meta, 'partitions') ~= ARGV[1] then return 0 end
local is_ordered = string.find(ARGV[2], '%z.')
if is_ordered and redis.call('HEXISTS', cursor, 'position') == 1 then
  if redis.pcall('XPENDING', stream, ARGV[3])['err'] then return -1 end
end

local length, added, first, last = 0, 0, false, '0-0'
if redis.call('EXISTS', stream) == 1 then
  local info = fields_of(redis.call('XINFO', 'STREAM', stream))
  length, added, last = info['length'], info['entries-added'], info['last-generated-id']
  first = info['first-entry'] and info['first-entry'][1]
end

-- Where a start lies: the first id to read, the group's id before it, and how many records passed (nil: unknown).
local function locate(start, before)
  if start == 'end' then return after(last), last, added end
  if start == 'start' or (first and not is_before(first, start)) then
    return first or after(last), first and '0-0' or last, added - length
  end
  if not is_before(start, after(last)) then return start, before, added end
  local unread, from = 0, start
  repeat
    local entries = redis.call('XRANGE', stream, from, '+', 'COUNT', COUNT_STEP)
    unread = unread + #entries
    if #entries < COUNT_STEP then return start, before, added - unread end
    from = '(' .. entries[#entries][1]
  until unread >= COUNT_MOST
  return start, before, nil
end

local start, before = ARGV[4], ARGV[5]
local is_new = redis.call('HSETNX', KEYS[3], ARGV[2], '') == 1
if is_new then
  redis.call('HINCRBY', meta, 'cursors', 1)
else
  -- A cursor that is there keeps the start that it was made with; a consumer group that is gone comes back to it.
  local kept = redis.call('HMGET', cursor, 'start', 'before')
  start, before = kept[1] or start, kept[2] or before
end
local position, group_id, passed = locate(start, before)
if is_new or redis.call('HEXISTS', cursor, 'position') == 0 then
  redis.call('HSET', cursor, 'position', position, 'passed', passed and text(passed) or '', 'start', start, 'before',
    before, 'seq', '0', 'epoch', '0', 'token', '', 'session', '', 'clean', '1', 'intent', '', 'commit_id', '',
    'last_commit_ms', '')
  -- A floor noted before this group came says nothing of what it has passed.
  for _, id in ipairs(redis.call('ZRANGE', KEYS[4], 0, -1)) do
    if is_before(position, id) then redis.call('ZREM', KEYS[4], id) end
  end
end
local made
if passed then
  made = redis.pcall('XGROUP', 'CREATE', stream, ARGV[3], group_id, 'MKSTREAM', 'ENTRIESREAD', text(passed))
else
  made = redis.pcall('XGROUP', 'CREATE', stream, ARGV[3], group_id, 'MKSTREAM')
end
if made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then return made end
return 1
