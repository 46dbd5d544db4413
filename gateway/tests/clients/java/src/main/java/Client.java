import io.socket.client.Ack;
import io.socket.client.IO;
import io.socket.client.Socket;
import java.net.URI;
import java.util.Arrays;
import java.util.Map;
import java.util.concurrent.atomic.AtomicInteger;

/** Keeps four connections, or sends bytes over two, and prints what happens as lines of JSON until its standard input ends. */
public final class Client {
  private static String url;
  private static String token;

  public static void main(String[] args) throws Exception {
    url = args[0];
    token = args[1];
    for (String transport : new String[] {"websocket", "polling"}) {
      if (args[2].equals("binary")) {
        sendBytes(transport);
      } else {
        keep(transport + " idle", transport, false);
        keep(transport + " sending", transport, true);
      }
    }
    while (System.in.read() >= 0) {}
    System.exit(0);
  }

  private static Socket socket(String name, String transport) throws Exception {
    IO.Options options =
        IO.Options.builder()
            .setForceNew(true)
            .setTransports(new String[] {transport})
            .setAuth(Map.of("token", token))
            .build();
    Socket socket = IO.socket(URI.create(url + "/relay"), options);
    socket.on(Socket.EVENT_CONNECT, ignored -> say(name, "connect", "0"));
    socket.on(Socket.EVENT_DISCONNECT, reason -> say(name, "disconnect", "\"" + reason[0] + "\""));
    return socket;
  }

  private static void keep(String name, String transport, boolean sends) throws Exception {
    Socket socket = socket(name, transport);
    AtomicInteger count = new AtomicInteger();
    Runnable echo =
        () -> socket.emit("echo", new Object[] {count.incrementAndGet()}, (Ack) back -> say(name, "echo", back[0]));
    if (sends) {
      Thread sender =
          new Thread(
              () -> {
                while (true) {
                  try {
                    Thread.sleep(50);
                  } catch (InterruptedException stop) {
                    return;
                  }
                  if (socket.connected()) {
                    echo.run();
                  }
                }
              });
      sender.setDaemon(true);
      sender.start();
    } else {
      socket.on(Socket.EVENT_CONNECT, ignored -> echo.run());
    }
    socket.connect();
  }

  private static void sendBytes(String transport) throws Exception {
    Socket socket = socket(transport, transport);
    socket.on(
        Socket.EVENT_CONNECT,
        ignored -> {
          for (int length : new int[] {0, 1, 2, 3, 56, 57, 58, 1000}) {
            byte[] bytes = new byte[length];
            for (int at = 0; at < length; at++) {
              bytes[at] = (byte) (at * 7);
            }
            socket.emit(
                "echo",
                new Object[] {bytes},
                (Ack) back -> {
                  boolean same = back[0] instanceof byte[] && Arrays.equals(bytes, (byte[]) back[0]);
                  say(transport, same ? "same" : "changed", length);
                });
          }
        });
    socket.connect();
  }

  private static synchronized void say(String name, String event, Object value) {
    System.out.println("{\"name\":\"" + name + "\",\"event\":\"" + event + "\",\"value\":" + value + "}");
  }
}
