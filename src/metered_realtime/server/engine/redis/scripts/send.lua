-- uses: base log
-- ARGV: message, bounds (3). Returns whether the peer has a connection.
if redis.call('HLEN', ENTRIES) == 0 then
  return 0
end
local epoch = open()
local offset = append(ARGV[9], limits_at(10))
tell(text('d', epoch, offset, offset, ARGV[9]))
redis.call('PEXPIRE', META, KEEP_MS)
redis.call('PEXPIRE', LOG, KEEP_MS)
return 1
