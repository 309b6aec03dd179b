-- uses: usage
-- Returns connections, their maximum in the period, and messages.
local used = turn(tonumber(ARGV[2]))
local connections = total()
keep()
return {connections, used and tonumber(redis.call('HGET', KEYS[2], 'peak') or 0) or connections, used or 0}
