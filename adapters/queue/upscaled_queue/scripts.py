"""The record's steps as Lua scripts, which Redis runs as a whole.

All times are Redis' own, because machines' clocks differ.
"""

from __future__ import annotations

_NOW = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
"""

# KEYS: record, job, starts, running. ARGV: token, job_id, machine, max deliveries, keep_s.
# The start's token is a member of a set, so that asking again after a lost answer counts it once.
BEGIN = (
    _NOW
    + """
local record = redis.call('GET', KEYS[1])
if record then return {'ended', record} end
if redis.call('HGET', KEYS[2], 'cancelled') then return {'cancelled', ''} end
local due = tonumber(redis.call('HGET', KEYS[2], 'not_before') or '0')
if due > now then return {'early', tostring(due - now)} end
local is_again = redis.call('SCARD', KEYS[3]) > 0
redis.call('SADD', KEYS[3], ARGV[1])
local starts = redis.call('SCARD', KEYS[3])
if starts > tonumber(ARGV[4]) then return {'poisoned', tostring(starts - 1)} end
redis.call('EXPIRE', KEYS[3], ARGV[5])
redis.call('HSET', KEYS[2], 'machine', ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[5])
redis.call('ZADD', KEYS[4], now, ARGV[2])
return {'run', tostring(starts)}
"""
)

# KEYS: record, job, running, outbox, dead. ARGV: event, job_id, keep_s, the job to keep or '',
# 1 for a dead letter; of its webhook the receiver or '', the URL, the body and the message's id,
# which `requeue` has replaced if this is not the job's first end. Answers with the record that was
# there before, if there was one.
SETTLE = (
    _NOW
    + """
redis.call('ZREM', KEYS[3], ARGV[2])
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'EX', ARGV[3]) then
  return redis.call('GET', KEYS[1])
end
if ARGV[6] ~= '' then
  local id = redis.call('HGET', KEYS[2], 'webhook_id') or ARGV[9]
  redis.call('HSET', KEYS[2], 'webhook_id', id)
  redis.call('HSET', 'upscaled:webhook:' .. id, 'job_id', ARGV[2], 'receiver', ARGV[6],
    'url', ARGV[7], 'body', ARGV[8], 'created_at', now, 'attempts', 0)
  redis.call('ZADD', 'upscaled:webhooks:' .. ARGV[6], now, id)
  redis.call('SADD', 'upscaled:webhooks', ARGV[6])
  redis.call('XADD', KEYS[4], 'MAXLEN', '~', 1000000, '*', 'job_id', ARGV[2], 'receiver', ARGV[6])
else
  redis.call('XADD', KEYS[4], 'MAXLEN', '~', 1000000, '*', 'job_id', ARGV[2])
end
if ARGV[5] == '1' then
  redis.call('ZADD', KEYS[5], now, ARGV[2])
  redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now - tonumber(ARGV[3]))
  if ARGV[4] ~= '' then redis.call('HSET', KEYS[2], 'job', ARGV[4]) end
end
redis.call('EXPIRE', KEYS[2], ARGV[3])
return false
"""
)

# KEYS: job, starts, running. ARGV: token, job_id, delay_s, keep_s, 1 if the start is not counted.
GIVE_BACK = (
    _NOW
    + """
redis.call('ZREM', KEYS[3], ARGV[2])
if ARGV[5] == '1' then redis.call('SREM', KEYS[2], ARGV[1]) end
if tonumber(ARGV[3]) > 0 then
  redis.call('HSET', KEYS[1], 'not_before', tostring(now + tonumber(ARGV[3])))
  redis.call('EXPIRE', KEYS[1], ARGV[4])
end
return false
"""
)

# KEYS: machines of each method, then running of each method. ARGV: machine, lease_s, count of
# methods, then the ids that run here. Answers with the ids that are to be cancelled.
TOUCH = (
    _NOW
    + """
local methods = tonumber(ARGV[3])
local cancelled = {}
for at = 1, methods do
  redis.call('ZADD', KEYS[at], now, ARGV[1])
  for _, key in ipairs({KEYS[at], KEYS[methods + at]}) do
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now - tonumber(ARGV[2]))
  end
  for one = 4, #ARGV do
    redis.call('ZADD', KEYS[methods + at], 'XX', now, ARGV[one])
  end
end
for one = 4, #ARGV do
  if redis.call('HGET', 'upscaled:job:' .. ARGV[one], 'cancelled') then
    table.insert(cancelled, ARGV[one])
  end
end
return cancelled
"""
)

_DROP = """
local function drop(id)
  local key = 'upscaled:webhook:' .. id
  local receiver = redis.call('HGET', key, 'receiver')
  if not receiver then return false end
  redis.call('DEL', key)
  redis.call('ZREM', 'upscaled:webhooks:' .. receiver, id)
  if redis.call('EXISTS', 'upscaled:webhooks:' .. receiver) == 0 then
    redis.call('SREM', 'upscaled:webhooks', receiver)
  end
  return true
end
"""

# KEYS: record, job, starts, dead. ARGV: job_id, an id for the next webhook, keep_s. The job's
# webhook is not sent any more, because its end is deleted.
DELETE = (
    _DROP
    + """
local id = redis.call('HGET', KEYS[2], 'webhook_id')
-- Refused if Redis has no memory left: then the job could not be given anew either.
redis.call('SET', KEYS[1], '')
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call('ZREM', KEYS[4], ARGV[1])
if id then
  drop(id)
  redis.call('HSET', KEYS[2], 'webhook_id', ARGV[2])
  redis.call('EXPIRE', KEYS[2], ARGV[3])
end
return false
"""
)

# KEYS: sender. ARGV: name, lease in milliseconds. Answers with 1 if this process is the one that
# sends webhooks, and with the time.
HOLD_SENDER = (
    _NOW
    + """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return {0, string.format('%.6f', now)} end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {1, string.format('%.6f', now)}
"""
)

# KEYS: sender. ARGV: name.
LEAVE_SENDER = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return false
"""

# KEYS: sender. ARGV: name, message's id, time of the next attempt. Answers with 0 if another
# process sends by now: that one counts its own attempts.
POSTPONE_WEBHOOK = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local key = 'upscaled:webhook:' .. ARGV[2]
local receiver = redis.call('HGET', key, 'receiver')
if receiver then
  redis.call('HINCRBY', key, 'attempts', 1)
  redis.call('ZADD', 'upscaled:webhooks:' .. receiver, 'XX', ARGV[3], ARGV[2])
end
return 1
"""

# KEYS: sender. ARGV: name, or '' if the receiver has the message, message's id, what became of it.
END_WEBHOOK = (
    _DROP
    + """
if ARGV[1] ~= '' and redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local job_id = redis.call('HGET', 'upscaled:webhook:' .. ARGV[2], 'job_id')
if drop(ARGV[2]) and redis.call('EXISTS', 'upscaled:job:' .. job_id) == 1 then
  redis.call('HSET', 'upscaled:job:' .. job_id, 'webhook', ARGV[3])
end
return 1
"""
)

# KEYS: the index of what machines have taken from Celery's lists. ARGV: the delivery tags that run
# here. Gives each of them that is still there another lease.
RENEW = (
    _NOW
    + """
for _, tag in ipairs(ARGV) do
  redis.call('ZADD', KEYS[1], 'XX', now, tag)
end
return false
"""
)
