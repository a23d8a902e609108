// Joins Go's own package time in the binaries whose clock the laboratory moves.

package time

import "syscall"

// labClockSeconds is how far Now is ahead of the machine: LAB_CLOCK_SECONDS, negative for behind.
var labClockSeconds = func() (seconds int64) {
	value, _ := syscall.Getenv("LAB_CLOCK_SECONDS")
	sign := int64(1)
	for _, character := range value {
		if character == '-' {
			sign = -1
		} else {
			seconds = 10*seconds + int64(character-'0')
		}
	}
	return sign * seconds
}()
