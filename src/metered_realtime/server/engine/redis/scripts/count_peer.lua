-- uses: base
return redis.call('HLEN', ENTRIES)
