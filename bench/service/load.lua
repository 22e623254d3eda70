-- wrk's part of bench.service: requests from a folder, one after the other, and what came of them as a line of JSON.
-- args: the folder (COUNT files N.body, and headers, a "Name: value" a line), COUNT, and for an offered rate the mean pause
-- of a connection between two requests in ms, drawn from an exponential distribution.

local requests, at = {}, 0

local function contents(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

function init(args)
  local folder, count, pause = args[1], tonumber(args[2]), tonumber(args[3] or 0)
  local headers = {}
  for name, value in contents(folder .. "/headers"):gmatch("([^:\n]+): ([^\n]*)") do headers[name] = value end
  for i = 0, count - 1 do
    local own = {}
    for name, value in pairs(headers) do own[name] = value end
    local length = io.open(folder .. "/" .. i .. ".length")
    if length then
      own["Inference-Header-Content-Length"] = length:read("*a")
      length:close()
    end
    requests[i + 1] = wrk.format("POST", wrk.path, own, contents(folder .. "/" .. i .. ".body"))
  end
  if pause > 0 then
    math.randomseed(1)
    delay = function() return -math.log(1 - math.random()) * pause end
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %.6f, "failed": %d, "p50_us": %.1f, "p99_us": %.1f}\n',
    summary.requests, summary.duration / 1e6,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
