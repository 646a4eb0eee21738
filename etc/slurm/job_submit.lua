-- A batch script's line "#ENROOT image=REF" becomes the job's comment "enroot:REF", which the prolog of enroot-slurm reads
-- (comment_requests: yes): for sites that want neither a plug-in nor stage-in. See docs/slurm.md.
--
-- A cluster has one job_submit.lua. If there is one already, copy what is between the two lines of dashes into it, and call
-- enroot_slurm_submit(job_desc) in its slurm_job_submit. It runs nothing, for slurmctld waits for it.

-- enroot-slurm --------------------------------------------------------------------------------------------------------

-- Slurm 23.02 has a field of its own for such things: then write "extra", and the comment stays the user's.
local ENROOT_SLURM_FIELD = "comment"

-- What is clearly wrong with a reference, or nil; the nodes have the last word.
local function enroot_slurm_wrong(reference)
  local rest = reference:gsub("^docker://", "")
  if #reference > 2048 then
    return "it is longer than 2048 characters"
  elseif reference:match("^dockerd://") or rest:match("^podman://") then
    return "this image is in a local daemon: push it to a registry"
  elseif rest:match("://") then
    return "it does not start with docker://"
  elseif not rest:match("^[%w@#/:._~!%%=+,-]+$") or rest:match("^[-/]") then
    return "it is not a reference of an image"
  elseif rest:match(":[^@/#]*@") and not rest:match("@sha256:%x+$") then
    return "a login must not hold a password, which everyone could see"
  elseif rest:match("[/#]$") then
    return "the image is missing after the registry"
  end
  return nil
end

function enroot_slurm_submit(job_desc)
  local found = {}
  for line in ((job_desc.script or "") .. "\n"):gmatch("([^\n]*)\n") do
    local words = line:match("^#ENROOT%s+(.-)%s*$")
    if words then
      local reference = words:match("^image=(%S+)$")
      local why = not reference and "expected one word, image=REFERENCE" or enroot_slurm_wrong(reference)
      if why then
        slurm.log_user("enroot-slurm: %s: %s", line:gsub(":[^@/#]*@", ":***@"), why)
        return slurm.ERROR
      end
      found[#found + 1] = "enroot:" .. reference
    elseif line:match("%S") and not line:match("^%s*#") then
      break
    end
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
