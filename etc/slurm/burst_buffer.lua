-- Stage-in of images with enroot-slurm: BurstBufferType=burst_buffer/lua in slurm.conf; see docs/slurm.md.
--
-- Slurm loads this file again for each call, in slurmctld (job_process, pools, paths) or beside it (all others). What it
-- runs is a program of its own, without a value that is the user's: only numbers, and paths that slurmctld has made.

local PROGRAM = "@LIBEXECDIR@/stage-in"
local MOST = 65536  -- characters that the program says
local STATE = "@RUN_PATH@/stage-in"

local function number(value)
  local text = tostring(value)
  assert(text:match("^%d+$"), "not a number")
  return text
end

-- A word of a shell's command line.
local function quoted(text)
  return "'" .. tostring(text):gsub("'", "'\\''") .. "'"
end

-- What the program prints; it says "ok" last if all is well, and else what is wrong.
local function run(...)
  local pipe = io.popen(PROGRAM .. " " .. table.concat({...}, " ") .. " 2>&1 < /dev/null")
  local said = pipe:read(MOST) or ""
  pipe:close()
  if ("\n" .. said):sub(-4) == "\nok\n" then
    return true, said:sub(1, -4)
  end
  -- White space goes from the end; by a pattern, runs of it in the middle would be looked at again and again.
  local last = #said
  while last > 0 and said:find("^%s", last) do
    last = last - 1
  end
  return false, "enroot-slurm: " .. said:sub(1, last)
end

local function result(good, said)
  if good then
    return slurm.SUCCESS
  end
  return slurm.ERROR, said
end

-- At submit time; uid, gid and job_info are there since Slurm 23.02.
function slurm_bb_job_process(job_script)
  return result(run("check", quoted(job_script)))
end

function slurm_bb_setup(job_id, uid, gid)
  return result(run("setup", number(job_id), number(uid), number(gid)))
end

-- Since some release the tasks of an array share one directory with their script, but paths still name one for each.
local function script_of(job_script, job_info)
  local file = io.open(job_script)
  if file then
    file:close()
    return job_script
  end
  local array = job_info and tonumber(job_info.array_job_id) or 0
  local place = string.format("/hash.%d/job.%d/script", array % 10, array)
  return array > 0 and job_script:gsub("/hash%.%d+/job%.%d+/script$", place) or job_script
end

function slurm_bb_data_in(job_id, job_script, uid, gid, job_info)
  return result(run("import", number(job_id), quoted(script_of(job_script, job_info))))
end

-- Just before the job starts, while slurmctld waits: nothing is run.
function slurm_bb_paths(job_id, job_script, path_file)
  local from = io.open(STATE .. "/" .. number(job_id) .. ".paths")
  if not from then
    return slurm.ERROR, "enroot-slurm: it is not known where the images of job " .. number(job_id) .. " are"
  end
  local lines = from:read("*a")
  from:close()
  local to = io.open(path_file, "w")
  if not to then  -- a task's of an array, as above
    os.execute("mkdir -m 700 " .. quoted(path_file:match("^(.*)/")))
    to = assert(io.open(path_file, "w"))
  end
  to:write(lines)
  to:close()
  return slurm.SUCCESS
end

-- The job has ended, or was cancelled; it must not stay because of this.
function slurm_bb_job_teardown(job_id)
  local good, said = run("release", number(job_id))
  if not good then
    slurm.log_error("%s", said)
  end
  return slurm.SUCCESS
end

function slurm_bb_get_status()
  local _, said = run("status")
  return slurm.SUCCESS, said
end

-- Slurm complains in its log, again and again, if there is no pool; nobody uses this one.
function slurm_bb_pools()
  return slurm.SUCCESS, '{"pools":[{"id":"enroot","granularity":1,"quantity":1}]}'
end

local function nothing()
  return slurm.SUCCESS
end

slurm_bb_test_data_in = nothing
slurm_bb_real_size = nothing
slurm_bb_pre_run = nothing
slurm_bb_post_run = nothing
slurm_bb_data_out = nothing
slurm_bb_test_data_out = nothing
