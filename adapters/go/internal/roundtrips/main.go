// For `upscaled bench clients`: seconds of round trips through the client and through a raw pipe echo,
// in turns. `roundtrips '{"rounds":…,"trips":…,"echo":[…],"run":[…]}'`.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log"
	"os"
	"os/exec"
	"time"

	upscaled "github.com/upscaled/upscaled/adapters/go"
)

type order struct {
	Rounds, Trips int
	Echo, Run     []string
}

func main() {
	var o order
	check(json.Unmarshal([]byte(os.Args[1]), &o))
	echo := exec.Command(o.Echo[0], o.Echo[1:]...)
	in, err := echo.StdinPipe()
	check(err)
	out, err := echo.StdoutPipe()
	check(err)
	check(echo.Start())
	lines := bufio.NewReader(out)

	ctx := context.Background()
	client, err := upscaled.Start(ctx, upscaled.WithCommand(o.Run...))
	check(err)
	job := upscaled.Job{Config: upscaled.FakeConfig{Steps: upscaled.Ptr(0)}}
	line, err := json.Marshal(job)
	check(err)
	line = append(line, '\n')

	seconds := struct {
		Echo   []float64 `json:"echo"`
		Client []float64 `json:"client"`
	}{}
	for round := 0; round <= o.Rounds; round++ {
		echoed := measure(o.Trips, func() error { return echoTrip(in, lines, line) })
		run := measure(o.Trips, func() error {
			_, err := client.Upscale(ctx, job)
			return err
		})
		if round == 0 {
			continue // it warms up
		}
		seconds.Echo = append(seconds.Echo, echoed...)
		seconds.Client = append(seconds.Client, run...)
	}
	check(client.Close())
	check(in.Close())
	check(echo.Wait())
	check(json.NewEncoder(os.Stdout).Encode(seconds))
}

func echoTrip(in io.Writer, lines *bufio.Reader, line []byte) error {
	if _, err := in.Write(line); err != nil {
		return err
	}
	_, err := lines.ReadSlice('\n')
	return err
}

func measure(trips int, trip func() error) []float64 {
	seconds := make([]float64, trips)
	for i := range seconds {
		start := time.Now()
		check(trip())
		seconds[i] = time.Since(start).Seconds()
	}
	return seconds
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
