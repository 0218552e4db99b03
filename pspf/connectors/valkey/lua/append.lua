-- Appends records to one partition, all or none.
--
-- KEYS  1 stream  2 meta
-- ARGV  1 now  2 number of partitions that the caller knows  3 shapes of the records  4.. their parts
-- Reply the first id, which the others follow; 0 where the topic is not there or has other partitions.
-- Caller: log.py

if redis.call('HGET', KEYS[2], 'partitions') ~= ARGV[2] then return 0 end
return (append_records(KEYS[1], ARGV[1] == '' and '*' or ARGV[1] .. '-*', ARGV[3], 4))
