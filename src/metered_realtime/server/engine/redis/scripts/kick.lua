-- uses: base
-- Returns the number of connections whose nodes have been told.
tell(text('x', '', 0, 0, ''))
return redis.call('HLEN', ENTRIES)
