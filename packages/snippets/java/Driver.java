import com.nimbusds.jose.util.JSONObjectUtils;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.util.ArrayList;
import java.util.Map;

final class Driver {
    public static void main(String[] args) throws Exception {
        var gate = new Gate(URI.create(System.getenv("GATE")), System.getenv("ISSUER"), System.getenv("AUDIENCE"));
        var lines = new BufferedReader(new InputStreamReader(System.in));
        for (var line = lines.readLine(); line != null; line = lines.readLine()) {
            System.out.println(JSONObjectUtils.toJSONString(answer(gate, JSONObjectUtils.parse(line))));
        }
        // the HTTP client's threads would keep the program alive
        System.exit(0);
    }

    private static Map<String, Object> answer(Gate gate, Map<String, Object> question) {
        try {
            var caller = gate.caller((String) question.get("assertion"));
            var action = (String) question.get("action");
            switch ((String) question.get("op")) {
                case "caller":
                    return Map.of("subject", caller.subject());
                case "may":
                    return Map.of("allowed", gate.may(caller, action, entity(JSONObjectUtils.getJSONObject(question, "resource"))));
                default:
                    var resources = new ArrayList<Gate.Entity>();
                    for (var resource : JSONObjectUtils.getJSONObjectArray(question, "resources")) {
                        resources.add(entity(resource));
                    }
                    return Map.of("allowed", gate.mayEach(caller, action, resources));
            }
        } catch (Exception error) {
            return Map.of("error", String.valueOf(error.getMessage()));
        }
    }

    private static Gate.Entity entity(Map<String, Object> json) throws Exception {
        return new Gate.Entity((String) json.get("type"), (String) json.get("id"), JSONObjectUtils.getJSONObject(json, "attrs"));
    }
}
