# Second half of the guest's first process: takes one job from the host, runs it, and reports its status.
# The host's programs are on PATH; what this script itself needs comes from busybox.
LAB=/run/lab
BB=$LAB/busybox

"$BB" hostname lab
"$BB" ip link set lo up 2>/dev/null
"$BB" ln -sf /proc/self/fd /dev/fd
"$BB" ln -sf /proc/self/fd/0 /dev/stdin
"$BB" ln -sf /proc/self/fd/1 /dev/stdout
"$BB" ln -sf /proc/self/fd/2 /dev/stderr
"$BB" mkdir -p /dev/virtio-ports
for port in /sys/class/virtio-ports/*; do
  read -r name 2>/dev/null <"$port/name" && "$BB" ln -s "../${port##*/}" "/dev/virtio-ports/$name"
done

exec 3<>/dev/virtio-ports/lab.control
# A line with a length and as many bytes: variables for this script, one of them the job, a script for /bin/sh.
read -r size <&3
"$BB" head -c "$size" <&3 >"$LAB/request"
. "$LAB/request"
printf %s "$job" >"$LAB/job"

if [ -n "$modules" ]; then
  release=$("$BB" uname -r)
  "$BB" mkdir -p "/lib/modules/$release"
  "$BB" mount -o bind "$LAB/host$modules" "/lib/modules/$release"
fi
# What the kernel's command line says for a module, `MODULE.PARAMETER=VALUE`, as modprobe gives it.
parameters() {
  for word in $("$BB" cat /proc/cmdline); do
    case $word in "$1".*) echo "${word#*.}" ;; esac
  done
}
# What a root file system of another processor has of the host's files, one directory a line.
printf '%s\n' "$shared" | while read -r directory; do
  [ -n "$directory" ] || continue
  "$BB" mkdir -p "$directory" "$LAB/shared$directory/upper" "$LAB/shared$directory/work"
  "$BB" mount -t overlay -o "lowerdir=$LAB/host$directory,upperdir=$LAB/shared$directory/upper,workdir=$LAB/shared$directory/work,index=off,xino=off,metacopy=off" \
    lab_shared "$directory"
done
if [ "$vfio" = 1 ]; then
  while read -r module; do
    # shellcheck disable=SC2046 # one word for each
    "$BB" insmod "$LAB/modules/$module" $(parameters "$("$BB" basename "$module" .ko | "$BB" tr - _)") ||
      echo "lab: module $module does not load" >/dev/console
  done <"$LAB/modules/vfio"
fi
"$BB" rm -r "$LAB/modules"

# The host ends the guest when it leaves, and tells the terminal's size as it changes.
control() {
  while read -r word rows columns <&3; do
    [ "$word" = size ] && [ -n "$tty" ] && "$BB" stty -F "$tty" rows "$rows" cols "$columns"
  done
  "$BB" poweroff -f
}

echo ready >&3
control &
control=$!

if [ -n "$tty" ]; then
  # Kept open, because a terminal forgets its size when nobody has it open.
  exec 4<>"$tty"
  "$BB" stty sane rows "$rows" cols "$columns" <&4
  "$BB" setsid -c /bin/sh "$LAB/job" <&4 >&4 2>&1 3<&- 4<&-
  status=$?
else
  # Pipes between the command and the ports, because a port cannot be opened twice as /dev/stdout is.
  "$BB" mkfifo "$LAB/in" "$LAB/out" "$LAB/err"
  "$BB" cat <"$LAB/out" >/dev/virtio-ports/lab.stdout 3<&- &
  out=$!
  "$BB" cat <"$LAB/err" >/dev/virtio-ports/lab.stderr 3<&- &
  err=$!
  "$BB" cat </dev/virtio-ports/lab.stdin >"$LAB/in" 3<&- &
  # In a shell of its own, because the end of a child interrupts this one while it opens a pipe.
  ("$BB" setsid /bin/sh "$LAB/job") <"$LAB/in" >"$LAB/out" 2>"$LAB/err" 3<&-
  status=$?
  # What the command left behind would keep the pipes open for ever.
  for process in /proc/[0-9]*; do
    case ${process#/proc/} in
      1 | "$out" | "$err" | "$control") ;;
      *) kill -9 "${process#/proc/}" 2>/dev/null ;;
    esac
  done
  wait "$out" "$err"
fi
echo "exit $status" >&3
# The host ends the guest now; returning would make the kernel panic.
"$BB" sleep 60
"$BB" poweroff -f
