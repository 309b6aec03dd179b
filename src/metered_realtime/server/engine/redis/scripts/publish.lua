-- uses: base log
-- ARGV: sender, message, topic of patterns, bounds (3). Returns the number of connections that are not the sender's.
local epoch = open()
local offset = append(ARGV[10], limits_at(12))
local item = text('m', epoch, redis.call('HINCRBY', META, 'seq', 1), offset, ARGV[10])
tell(item)
redis.call('PUBLISH', ARGV[11], item)
redis.call('PEXPIRE', META, KEEP_MS)
redis.call('PEXPIRE', LOG, KEEP_MS)
local own = redis.call('ZLEXCOUNT', ORDER, '[' .. ARGV[9] .. '\0', '(' .. ARGV[9] .. '\1')
return redis.call('HLEN', ENTRIES) - own
