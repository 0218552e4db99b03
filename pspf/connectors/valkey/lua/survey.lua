-- What a partition's log is.
--
-- KEYS  1 stream
-- Reply {length, id of the first entry or empty, last id ever given}
-- Caller: inspect.py

if redis.call('EXISTS', KEYS[1]) == 0 then return {0, '', '0-0'} end
local info = fields_of(redis.call('XINFO', 'STREAM', KEYS[1]))
local first = info['first-entry']
return {info['length'], first and first[1] or '', info['last-generated-id']}
