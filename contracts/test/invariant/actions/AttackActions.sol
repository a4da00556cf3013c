// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

import {Ask, Bid, LeaseKey, Numbered, Relay} from "../../../src/interfaces/IComputeEscrow.sol";
import {Market} from "../Market.sol";

/// @notice What must fail for everybody: the extension called where it is, powers that an owner would have, and calls about
/// leases under other names.
abstract contract AttackActions is Market {
    /// @dev The extension's own storage is empty and stays so: whatever would write is refused there.
    function callExtension(uint256 seed) external acting(seed) {
        if (_known.length == 0) return;
        Known storage k = _known[_pick(_openSet())];
        bytes[10] memory calls;
        (Ask memory ask, Bid memory bid) = (abi.decode(k.ask, (Ask)), abi.decode(k.bid, (Bid)));
        Relay memory relay;
        relay.deadline = type(uint40).max;
        calls[0] = abi.encodeCall(ESCROW.topUp, (ask, bid, k.pricesHash, k.seat, 1));
        calls[1] = abi.encodeCall(ESCROW.refund, (_keyOf(k)));
        calls[2] = abi.encodeCall(ESCROW.cancel, (k.buyer, Numbered.Orders, 1, true, ""));
        calls[3] = abi.encodeCall(ESCROW.collectFees, (accounts()));
        calls[4] = abi.encodeCall(ESCROW.depositWithAuthorization, (k.buyer, 1, 0, type(uint256).max, 0, 27, 0, 0));
        calls[5] = abi.encodeCall(ESCROW.withdraw, (k.buyer, 1));
        calls[6] = abi.encodeCall(ESCROW.createPurse, (stranger, 1, type(uint40).max, 0));
        calls[7] = abi.encodeCall(ESCROW.withdrawBySignature, (k.buyer, k.buyer, 1, relay, ""));
        calls[8] = abi.encodeCall(ESCROW.multicall, (new bytes[](0)));
        calls[9] = abi.encodeCall(ESCROW.depositFor, (k.buyer, 1));
        address sender = [_speaker(k.buyer), k.provider, k.witness, stranger][_draw(4)];
        _doAt(ESCROW.extension(), "callExtension", false, sender, calls[_draw(10)]);
    }

    /// @dev Nobody owns the escrow, least of all who deployed it; nor does it say yes to calls that it does not know.
    function ownIt(uint256 seed) external acting(seed) {
        address victim = buyers[_draw(BUYERS)];
        bytes[8] memory calls;
        calls[0] = abi.encodeWithSignature("transferOwnership(address)", deployer);
        calls[1] = abi.encodeWithSignature("pause()");
        calls[2] = abi.encodeWithSignature("upgradeToAndCall(address,bytes)", deployer, "");
        calls[3] = abi.encodeWithSignature("setFeeRecipient(address)", deployer);
        calls[4] = abi.encodeWithSignature("sweep(address,address,uint256)", address(TOKEN), deployer, 1);
        calls[5] = abi.encodeCall(IERC20.transferFrom, (victim, deployer, 1));
        calls[6] = abi.encodePacked(bytes4(keccak256(abi.encode(seed))));
        calls[7] = "";
        _do("ownIt", false, _once(2) ? deployer : feeRecipient, calls[_draw(8)]);
    }

    /// @dev A lease's number under other parties is no lease.
    function misname(uint256 seed) external acting(seed) {
        if (_known.length == 0) return;
        uint256 index = _pick(_openSet());
        Known storage k = _known[index];
        LeaseKey memory key = _keyOf(k);
        address liar = _anyone();
        uint256 which = _draw(3);
        if (which == 0) key.buyer = liar;
        else if (which == 1) key.provider = liar;
        else key.witness = liar;
        if (keccak256(abi.encode(key)) == keccak256(abi.encode(_keyOf(k)))) return;
        _touch(index, false);
        bytes memory data =
            _once(2) ? abi.encodeCall(ESCROW.stop, (key, _once(2))) : abi.encodeCall(ESCROW.refund, (key));
        _do("misname", false, liar, data);
    }
}
