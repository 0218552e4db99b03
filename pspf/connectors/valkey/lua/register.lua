-- Joins a group on one partition: makes its cursor and its consumer group where they are missing.
--
-- KEYS  1 stream  2 meta  3 cursors  4 floors  5 the cursor's meta
-- ARGV  1 number of partitions that the caller knows  2 the cursor's field in `cursors`
--       3 the consumer group  4 start: `start`, `end`, or a record's id  5 the id before that
-- Reply 1; 0 where the topic is not there or has other partitions; -1 where a cursor has lost its stream or its group
--       (reset.lua comes first: a group made now would hide that)
-- Caller: session.py

local COUNT_MOST = 5000

local stream, meta, cursor = KEYS[1], KEYS[2], KEYS[5]
if redis.call('HGET', meta, 'partitions') ~= ARGV[1] then return 0 end
local has_it = has_group(stream, ARGV[3])
if not has_it and redis.call('HEXISTS', cursor, 'position') == 1 then return -1 end

local wrong = check_keys(1, 1, 'stream', 'XGROUP CREATE') or check_keys(2, 2, 'hash', 'HINCRBY')
  or check_keys(3, 3, 'hash', 'HSETNX') or check_keys(4, 4, 'zset', 'ZRANGE', 'ZREM') or check_keys(5, 5, 'hash', 'HSET')
if wrong then return wrong end

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
  local unread, rest = count_from(stream, start, COUNT_MOST)
  return start, before, not rest and added - unread or nil
end

local is_new = redis.call('HSETNX', KEYS[3], ARGV[2], '') == 1
if is_new then redis.call('HINCRBY', meta, 'cursors', 1) end
if has_it and not is_new and redis.call('HEXISTS', cursor, 'position') == 1 then return 1 end
local position, group_id, passed = locate(ARGV[4], ARGV[5])
if is_new or redis.call('HEXISTS', cursor, 'position') == 0 then
  redis.call('HSET', cursor, 'position', position, 'passed', passed and text(passed) or '', 'start', ARGV[4],
    'before', ARGV[5], 'seq', '0', 'epoch', '0', 'token', '', 'session', '', 'clean', '1', 'intent', '', 'commit_id', '',
    'last_commit_ms', '')
  -- A floor noted before this group came says nothing of what it has passed.
  for _, id in ipairs(redis.call('ZRANGE', KEYS[4], 0, -1)) do
    if is_before(position, id) then redis.call('ZREM', KEYS[4], id) end
  end
end
if has_it then return 1 end
if passed then
  redis.call('XGROUP', 'CREATE', stream, ARGV[3], group_id, 'MKSTREAM', 'ENTRIESREAD', text(passed))
else
  redis.call('XGROUP', 'CREATE', stream, ARGV[3], group_id, 'MKSTREAM')
end
return 1
