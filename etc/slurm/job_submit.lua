-- A batch script's line "#ENROOT image=REF" becomes the job's comment "enroot:REF", which the prolog of enroot-slurm reads
-- (comment_requests: yes): for sites that want neither a plug-in nor stage-in. See docs/slurm.md.
--
-- A cluster has one job_submit.lua. If there is one already, copy what is between the two lines of dashes into it, and call
-- enroot_slurm_submit(job_desc) in its slurm_job_submit. It runs nothing, for slurmctld waits for it, unless
-- ENROOT_SLURM_CHECK is set below.

-- enroot-slurm --------------------------------------------------------------------------------------------------------

-- Slurm 23.02 has a field of its own for such things: then write "extra", and the comment stays the user's.
local ENROOT_SLURM_FIELD = "comment"
local ENROOT_SLURM_LONGEST = 2100  -- characters of a line
local ENROOT_SLURM_MOST = 32  -- images of a job
-- Set it to "/usr/libexec/enroot-slurm/step --check", and images that allowed_images or blocked_images refuse are refused
-- here: slurmctld waits for each such job for about a fifth of a second. Without it, the prolog refuses them.
local ENROOT_SLURM_CHECK = nil

-- What is clearly wrong with a reference, or nil; the nodes, which have its whole grammar, have the last word. slurmctld
-- waits: a pattern begins with ^, and what it looks at is short.
local function enroot_slurm_wrong(reference)
  local rest = reference:gsub("^docker://", "")
  -- In no registry: a file, which the job's user reads on the nodes, or an image of a daemon.
  if rest:match("^docker%-archive:/") or rest:match("^oci%-archive:/") or rest:match("^oci:/") or rest:match("^dockerd://%w")
    or rest:match("^podman://%w") then
    return nil
  end
  if not rest:match("^[%w_%[][^%s%c]*$") then
    return "it is not a reference of an image"
  elseif rest:gsub("@sha%d+:%x+$", ""):match("^[^:/#]*:.*@") then
    return "a login must not hold a password, which everyone could see"
  elseif rest:match("^[^/#]*[/#]$") then
    return "the image is missing after the registry"
  end
  return nil
end

-- What the lists of images have against the references, or nil. It is slurmctld that waits, so not for long.
local function enroot_slurm_refused(references)
  local words = {}
  for _, reference in ipairs(references) do
    words[#words + 1] = "image=" .. reference:gsub("^enroot:", "")
  end
  local text = table.concat(words, " "):gsub("'", "'\\''")
  local command = "timeout 10 " .. ENROOT_SLURM_CHECK .. " '" .. text .. "' 2>&1 < /dev/null; echo $?"
  local pipe = io.popen(command)
  local said = pipe:read(4096) or ""
  pipe:close()  -- within slurmctld it does not tell the status
  return said:sub(-3) == "\n4\n" and said:sub(1, -4) or nil
end

function enroot_slurm_submit(job_desc)
  local found, script, at = {}, job_desc.script or "", 1
  while at <= #script do
    local stop = script:find("\n", at, true) or #script + 1
    local line = script:sub(at, math.min(stop - 1, at + ENROOT_SLURM_LONGEST))
    at = stop + 1
    if line:match("^#ENROOT%s") or line == "#ENROOT" then
      -- The reference in its place, then nothing but white space.
      local reference, rest = line:match("^#ENROOT%s+image=(%S+)()")
      local why = nil
      if #line > ENROOT_SLURM_LONGEST then
        why = "the line is longer than " .. ENROOT_SLURM_LONGEST .. " characters"
      elseif not reference or line:find("%S", rest) then
        why = "expected one word, image=REFERENCE"
      elseif #found == ENROOT_SLURM_MOST then
        why = "more than " .. ENROOT_SLURM_MOST .. " images"
      else
        why = enroot_slurm_wrong(reference)
      end
      if why then
        local shown = #line > ENROOT_SLURM_LONGEST and "#ENROOT" or line:gsub("^(#ENROOT%s+).*@", "%1***@"):sub(1, 200)
        slurm.log_user("enroot-slurm: %s: %s", shown, why)
        return slurm.ERROR
      end
      found[#found + 1] = "enroot:" .. reference
    elseif not line:match("^%s*#") and line:match("%S") then
      break
    end
  end
  local refused = ENROOT_SLURM_CHECK and #found > 0 and enroot_slurm_refused(found)
  if refused then
    slurm.log_user("%s", refused)
    return slurm.ERROR
  end
  if #found > 0 then
    local before = job_desc[ENROOT_SLURM_FIELD]
    if before and before ~= "" then
      table.insert(found, 1, before)
    end
    job_desc[ENROOT_SLURM_FIELD] = table.concat(found, " ")
  end
  return slurm.SUCCESS
end

------------------------------------------------------------------------------------------------------------------------

function slurm_job_submit(job_desc, part_list, submit_uid)
  return enroot_slurm_submit(job_desc)
end

function slurm_job_modify(job_desc, job_rec, part_list, modify_uid)
  return slurm.SUCCESS
end

return slurm.SUCCESS
