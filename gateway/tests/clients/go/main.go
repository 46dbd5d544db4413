// Keeps four connections, or sends bytes over two, and prints what happens as lines of JSON until its standard input ends.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zishang520/socket.io/clients/engine/v3/transports"
	"github.com/zishang520/socket.io/clients/socket/v3"
	"github.com/zishang520/socket.io/v3/pkg/types"
)

var (
	url, token = os.Args[1], os.Args[2]
	printing   sync.Mutex
)

func say(name, event string, value any) {
	line, err := json.Marshal(map[string]any{"name": name, "event": event, "value": value})
	if err != nil {
		line = []byte(fmt.Sprintf(`{"name":%q,"event":"error","value":%q}`, name, err.Error()))
	}
	printing.Lock()
	defer printing.Unlock()
	fmt.Println(string(line))
}

func open(name, transport string, onConnect func(*socket.Socket)) *socket.Socket {
	options := socket.DefaultOptions()
	if transport == "polling" {
		options.SetTransports(types.NewSet(transports.Polling))
	} else {
		options.SetTransports(types.NewSet(transports.WebSocket))
	}
	options.SetForceNew(true)
	// An attempt that is refused is not noticed before its time is over.
	options.SetTimeout(2 * time.Second)
	options.SetAuth(map[string]any{"token": token})
	client, err := socket.Connect(url+"/relay", options)
	if err != nil {
		panic(err)
	}
	client.On("connect", func(...any) {
		say(name, "connect", 0)
		onConnect(client)
	})
	client.On("disconnect", func(reasons ...any) { say(name, "disconnect", fmt.Sprint(reasons[0])) })
	return client
}

func keep(name, transport string, sends bool) {
	var count atomic.Int64
	echo := func(client *socket.Socket) {
		client.Emit("echo", count.Add(1), func(back []any, err error) {
			if err == nil && len(back) > 0 {
				say(name, "echo", back[0])
			}
		})
	}
	client := open(name, transport, func(client *socket.Socket) {
		if !sends {
			echo(client)
		}
	})
	if !sends {
		return
	}
	go func() {
		for range time.Tick(50 * time.Millisecond) {
			if client.Connected() {
				echo(client)
			}
		}
	}()
}

func sendBytes(transport string) {
	open(transport, transport, func(client *socket.Socket) {
		for _, length := range []int{0, 1, 2, 3, 56, 57, 58, 1000} {
			data := make([]byte, length)
			for at := range data {
				data[at] = byte(at * 7)
			}
			client.Emit("echo", types.NewBytesBuffer(data), func(back []any, err error) {
				outcome := "changed"
				if len(back) > 0 {
					if buffer, ok := back[0].(types.BufferInterface); ok && bytes.Equal(buffer.Bytes(), data) {
						outcome = "same"
					}
				}
				say(transport, outcome, length)
			})
		}
	})
}

func main() {
	for _, transport := range []string{"websocket", "polling"} {
		if os.Args[3] == "binary" {
			sendBytes(transport)
			continue
		}
		keep(transport+" idle", transport, false)
		keep(transport+" sending", transport, true)
	}
	io.Copy(io.Discard, os.Stdin)
}
